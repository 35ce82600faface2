"""How the machine under the agent is: load, memory, heat, power, and whether something slows it down."""
