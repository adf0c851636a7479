"""What encoder and decoder are made of: linear layers, attention over paged rings, the stack."""
