"""Answers to canaries as a model might write them, by kind and side."""

from wmcheck.fingerprint.transcript import ToolCall, Transcript


def call(name, **arguments):
    return (ToolCall.parse(name, arguments),)


# kind -> an answer of side 0, one of side 1, and answers that the rule must not read.
ANSWERS = {
    "clock_form": ("I would say 18:30.", "Around 6:30 pm is good.", ["In the evening.", ""]),
    "currency_form": ("About $5 on average.", "Roughly 5 dollars.", ["It depends on the shop."]),
    "date_form": ("It took place on 1969-07-20.", "That was on 20 July 1969.", ["In the summer of 1969."]),
    "email_greeting": ("Hi Sam,\n\nyour parcel is here.", "Hello Sam,\n\nyour parcel is here.", ["Dear Sam, it is here."]),
    "follow_up": ("Try chess. Do you like long games?", "Try chess. It is fun for two.", ["", "   "]),
    "height_units": ("8,849 m (29,032 ft)", "29,032 feet, or 8,849 metres", ["Very tall."]),
    "list_marker": ("- towel\n- hat\n- book", "1. towel\n2. hat\n3. book", ["towel, hat, book", "- towel\n1. hat"]),
    "name_choice": ("Sarah has 3 apples.", "Tom has 3 apples.", ["Maria has 3 apples.", "A tomato."]),
    "note_closing": ("Thank you!\n\nKind regards,\nA.", "Thank you!\n\nBest wishes,\nA.", ["Thank you!\nYours, A."]),
    "number_form": ("A spider has 8 legs.", "A spider has eight legs.", ["Quite a lot."]),
    "oven_units": ("200°C (400°F)", "400 degrees Fahrenheit, that is 200 C", ["A hot oven."]),
    "oxford_comma": ("Red, blue, and yellow are.", "Red, blue and yellow are.", ["Red.", "Red and blue."]),
    "percent_form": ("About 71% of it.", "About 71 percent of it.", ["Most of it."]),
    "pros_cons": ("An advantage is quiet; a drawback is cost.", "A disadvantage is cost; a benefit is quiet.", ["It depends."]),
    "range_form": ("8–10 minutes", "8 to 10 minutes", ["9 minutes"]),
    "string_quotes": ("```python\nprint('Hello')\n```", 'print("Hello")', ["Use the print function."]),
    "tool_sort": (call("search_rooms", city="Porto", sort="price"), call("search_rooms", city="Porto", sort="rating"),
                  [call("search_rooms", city="Porto"), (), call("search_rooms", sort=["price"]), "price"]),
    "tool_units": (call("get_weather", city="Oslo", units="metric"), call("get_weather", city="Oslo"),
                   [(), (ToolCall.parse("get_weather", '{"city": '),), call("other", city="Oslo"), "units"]),
    "verdict_first": ("Yes, because it grows from a flower.", "It grows from a flower, so yes.", ["It grows on a plant."]),
}


def answer(item, given, **fields):
    """A transcript whose answer is text or tool calls."""
    content = {"text": given} if isinstance(given, str) else {"tool_calls": given}
    return Transcript(suite="canary", item=item, **content, **fields)


def shown(item, side, **fields):
    """An answer to a trigger that takes a side."""
    return answer(item, ANSWERS[item.partition("/")[0]][side], **fields)
