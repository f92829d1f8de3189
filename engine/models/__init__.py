"""Models that ship with the package, each a Hugging Face directory with its card."""
