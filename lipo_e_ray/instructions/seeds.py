"""The shipped seed instructions: what people really start from, good ones included, so the baseline is a fair one."""

SEED_INSTRUCTIONS: tuple[str, ...] = (
    "Let's think step by step.",
    "Solve the problem.",
    "Answer the question.",
    "Answer the question. Give only the final answer.",
    "Read the question carefully and give a short, correct answer.",
    "You are a careful expert. Work through the question and state the final answer at the end.",
    "Think step by step, then write the final answer on the last line.",
    "Take a deep breath and work on this problem step by step.",
    "First understand the problem and make a plan. Then carry out the plan and solve the problem step by step.",
    "Write the calculation in one line, then the result.",
    "Reason briefly, then end with the answer after ####.",
    "You are a helpful teacher. Explain the solution in a few words and finish with the answer.",
)
