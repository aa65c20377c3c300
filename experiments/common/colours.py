"""Colours of figures; those of the methods are in `methods`."""

BLUE, ORANGE, GREY, RED = "#3465a4", "#e07b00", "#8a8d88", "#c0282d"
