"""Dash cameras: lane lines, lane departure, collision warning. A warning that cannot be given says so."""
