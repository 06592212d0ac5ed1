"""What trainers do to data: regions and their sampling, boxes of objects, strong augmentation."""
