"""Jobs of a suite: the driver that starts them, their steps, and the receipts that they leave."""
