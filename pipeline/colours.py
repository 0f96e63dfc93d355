"""The colours of classes, in the pictures and on the page of the report."""

import colorsys

COLOURS = (
    *("#4c84c9", "#e8743b", "#3fa34d", "#d64550", "#8e6bbf", "#9c6b4f"),
    *("#d667b5", "#7f8790", "#b3a125", "#22a6b3", "#84cc3f", "#f4a6a0"),
)


def class_colours(count: int) -> list[str]:
    """One colour a class, none near black or white; more than twelve go round the colour circle, two tones by turns."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    tones = [colorsys.hls_to_rgb(place / count, (0.45, 0.62)[place % 2], 0.65) for place in range(count)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in tone) for tone in tones]
