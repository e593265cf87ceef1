"""OpenStack Glance for layers, beside another store for the rest."""
