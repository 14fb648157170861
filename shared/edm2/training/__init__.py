"""What a training step needs: the loss, the learning rate, and magnitudes of weights and activations to watch."""
