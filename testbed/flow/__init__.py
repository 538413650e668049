"""What a flow scheduler is asked and what it answers: fluid problems and schedules, and chunks bound to contacts."""
