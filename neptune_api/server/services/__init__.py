"""Servicers, one file per service: behaviour, written once for every wire."""
