"""A model answers for whole files and tables: `python -m jobs.predict --model … --input … --output …`."""
