"""Storage driver that keeps layers in OpenStack Glance and everything else in another driver."""
