"""From files to tokens and examples: sources, samples, cleaning, de-duplication, tokenizers, packing, loading."""
