"""Live recognition: the contract, the registry, and the engines that implement it."""
