"""Images to a trained, evaluated, explained and exported CNN: one Typer command for each DVC stage."""
