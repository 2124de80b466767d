# The row python-loop: objects, calls, dictionaries, strings and sorting.


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def add(self, other):
        return Point((self.x * 3 + other.y) % 65537, (self.y + other.x) % 65521)


words, total, point = {}, 0, Point(1, 2)
for i in range(20000):
    point = point.add(Point(i, total % 97))
    word = "w%d" % (point.x % 500)
    words[word] = words.get(word, 0) + 1
    total += point.y
common = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:20]
print(total, sum(x * x for x in range(20000)) % 65537, common)
