"""What a plant asks of the box beside verdicts: triggers, recipes, alarms."""
