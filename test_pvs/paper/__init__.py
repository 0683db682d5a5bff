"""The paper's Tables 1 to 7 and 10 by one command: `python -m test_pvs.paper TABLE`."""
