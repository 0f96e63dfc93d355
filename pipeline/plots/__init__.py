"""What the plots of several stages share: style and fonts."""
