"""The paper's analyses of finished evaluations: data and pictures."""
