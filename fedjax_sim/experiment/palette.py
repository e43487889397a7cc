"""The colours of every picture."""

from __future__ import annotations

INK, GREY, GRID = "#2b2d42", "#6c7086", "#e6e8ef"
BLUE, GREEN, ORANGE, PURPLE, RED = "#2f6db3", "#3d9a50", "#e08214", "#8d5fb8", "#c0392b"
