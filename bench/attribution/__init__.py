"""The attribution study: random devices and sensors of known power, and how near the accounts come."""
