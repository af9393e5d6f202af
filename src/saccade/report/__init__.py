"""Results as pictures, a web page and Markdown tables."""
