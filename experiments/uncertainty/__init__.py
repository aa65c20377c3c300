"""Who knows best when it does not know?"""
