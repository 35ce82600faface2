"""What somebody should be told of: rules that look at the fleet, and when one fires and ends. Pure."""
