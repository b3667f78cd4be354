"""What a peer wants of us to be asked as a server: never a part of vlserve itself."""
