"""What a language model learns from raw text: masked tokens, pairs of segments, the next token, spans taken out."""
