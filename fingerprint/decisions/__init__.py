"""What an answer decided: refusal labels and forms, and the canonical tokens of tool calls."""
