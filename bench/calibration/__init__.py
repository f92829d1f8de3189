"""Where thinking stops paying, offline: checkpoint logs, fits of accuracy on joules, the stopping rule."""
