"""Networks that predict a property of every node or of every graph, where there is no energy to differentiate."""
