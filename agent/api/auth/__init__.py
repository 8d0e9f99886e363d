"""Who may call: users, PINs, sessions, the kiosk page's launch file."""
