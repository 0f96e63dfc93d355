"""Pages in a browser."""


def is_within_the_screen(page) -> bool:
    """Whether nothing on the page needs horizontal scrolling."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
