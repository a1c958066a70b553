"""Faults for a live cluster, what clients saw meanwhile, and whether that was right."""

from __future__ import annotations
