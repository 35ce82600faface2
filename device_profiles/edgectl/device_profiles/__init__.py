"""What a kind of device can do: schema, catalogue and the probe of the machine it runs on."""
