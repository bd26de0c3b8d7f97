"""Operations that are exact to any order of derivative."""
