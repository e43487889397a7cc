"""What devices, networks and availability cost: a model of the fleet and a virtual clock."""
