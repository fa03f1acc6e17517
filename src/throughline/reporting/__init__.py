"""One visual language: terminal tables and progress, SVG plots, self-contained pages with JSON beside."""
