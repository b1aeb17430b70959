"""How text is cleaned before a model reads it, with the way back to what was sent; how words that came apart are joined."""
