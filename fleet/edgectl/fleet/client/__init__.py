"""What a workstation asks of the controller over HTTP."""
