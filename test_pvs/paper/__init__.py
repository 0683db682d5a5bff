"""The paper's Tables 1 to 7 by one command: `python -m test_pvs.paper TABLE`."""
