"""Pictures drawn from reconstructed weights without scoring them."""
