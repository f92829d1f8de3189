"""Other engines, run on the same shapes. Each module imports its package inside its functions."""
