"""What a layer's integers make the machine switch: streams of operands, and the nets of every kind of array."""
