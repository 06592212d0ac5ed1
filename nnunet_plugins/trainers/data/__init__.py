"""Data of trainers: regions, their importance and sampling, boxes of objects, strong augmentation."""
