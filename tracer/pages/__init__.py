"""Reports on a whole trace for people who look before they read: a page, a picture, a text to go on writing."""
