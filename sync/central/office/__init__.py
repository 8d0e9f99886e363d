"""What people at the office see: logins, JSON under /api/v1/office, pages, live views."""
