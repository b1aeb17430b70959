"""What every stage shares: config, recipe, stage, search spaces, execution, command line. No torch in here."""
