"""What technicians and central ops run around the box: simulated devices, and later enrolment and kits."""
