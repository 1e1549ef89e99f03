"""What the Lambda functions do, one module per subject."""
