"""Operations whose derivatives are exact to any order."""
