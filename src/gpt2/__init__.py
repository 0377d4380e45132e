"""gpt2: run, measure and explain language models of the GPT-2 architecture."""
