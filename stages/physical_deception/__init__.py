"""The reinforcement-learning experiment of the SOO paper, on its own: agents that mislead in physical deception."""
